"""What language modeling is made of: which tokens are hidden, and how texts are packed to full rows."""
