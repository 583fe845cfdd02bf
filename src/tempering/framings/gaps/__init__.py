"""What cloze prompts and demonstrations are made of: label words, poles, trained slots, drawn and shown examples."""
