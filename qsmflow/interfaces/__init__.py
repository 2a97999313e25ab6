"""One Nipype interface a stage: load, call one core function, save."""
