"""What prototypes are made of: their mixture, capacity, growth."""
