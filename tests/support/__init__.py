"""What tests share: stacks, servers, clients and rows, none of them a test."""
