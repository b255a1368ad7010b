"""For authors of exhibits: the lint (`attnlab dev check`) and the template (`attnlab dev new`)."""
