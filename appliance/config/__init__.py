"""The settings of the appliance: one YAML file, closed and typed."""
