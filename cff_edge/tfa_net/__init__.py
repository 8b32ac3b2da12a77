"""TFA-Net: reconstruction on a template, over a frozen trunk (tfa_net.md)."""
