"""From one ``InferenceResult`` to DICOM objects: one file per form."""
