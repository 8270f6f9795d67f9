"""The fault campaign: the real appliance under load while everything around it fails, and the audit afterwards."""
