"""What contrastive framings are made of: vectors of texts, and pairs found by their number."""
