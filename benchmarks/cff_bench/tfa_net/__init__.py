"""TFA-Net beside CFF: trained, exported and judged with the commands that serve both."""
