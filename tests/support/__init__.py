"""What several test packages share: makers of DICOM data sets and the like."""
