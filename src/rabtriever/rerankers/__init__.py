"""Scorers of (query, document) pairs, which read both texts together. In training any of these is a teacher."""
