"""What perturbation curves and metrics are made of: regions, replacements, the model as a function, protocol, store."""
