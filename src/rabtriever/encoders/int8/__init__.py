"""Bidirectional encoders on a CPU in integers: BERT, RoBERTa, MPNet and Gemma 3's."""
