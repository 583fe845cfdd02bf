"""What of the backbone is tuned: one file a method."""
