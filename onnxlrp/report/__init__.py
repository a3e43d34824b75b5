"""Reports: arrays and findings become pictures, pages and documents."""
