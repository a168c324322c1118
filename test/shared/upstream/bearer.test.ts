// Taken: being written (guard, client, upstream: second helper).
