"""Models of other servers, offered beside ours."""
