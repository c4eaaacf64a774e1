"""Presigned URLs and the credentials that sign them."""
