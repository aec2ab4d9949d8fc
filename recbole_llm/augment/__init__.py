"""What a language model adds: attributes of items, profiles of users, proposed edges; asked once, kept in a ledger."""
