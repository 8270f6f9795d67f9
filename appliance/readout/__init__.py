"""From the model's output to structures, measurements and findings."""
