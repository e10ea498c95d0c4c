"""HTTP and a page: an index in front of users."""
