"""Files of a job: artifacts, their signed links, input pictures, and the preview of a running generation."""
