"""What heads over words and spans are made of: windows over long texts, their last layers, legal tags."""
