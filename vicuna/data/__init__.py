"""Turn shared chats into training conversations, with every dropped round accounted for."""
