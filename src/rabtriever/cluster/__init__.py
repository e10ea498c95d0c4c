"""What runs on several machines through Ray: encoding a corpus, judging pairs, serving shards of an index."""
