"""Every named optimizer: a few lines over the ascent and descent rules, with its paper and deviations."""
