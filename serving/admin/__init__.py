"""The admin listener: other bundles, indexes and ads for a service that goes on."""
