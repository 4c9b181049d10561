FROM python:3
RUN <<SCRIPT
#!/usr/bin/env python3
print('hello')
SCRIPT
