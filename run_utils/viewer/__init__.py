"""A page that shows a slide and the nuclei of its ``store`` output: ``python -m run_utils.viewer SLIDE STORE``."""
