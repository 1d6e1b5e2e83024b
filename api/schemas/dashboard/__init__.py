"""Requests and responses of the dashboard and the live page's own routes."""
