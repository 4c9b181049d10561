FROM debian
MAINTAINER Ada Lovelace <ada@example.com>
