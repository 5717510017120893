"""Every speed that modelhub claims, measured against its peers on full-size files: ``make bench``."""
