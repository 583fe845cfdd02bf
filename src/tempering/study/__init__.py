"""The study: recipes x sizes x seeds, paired, one record a run."""
