/* notify.h - tell systemd how the service is doing (sd_notify's protocol: a datagram to $NOTIFY_SOCKET). */
#ifndef JOMED_SERVER_NOTIFY_H
#define JOMED_SERVER_NOTIFY_H

/* state: "READY=1", "STOPPING=1". Does nothing when not run by systemd; a failed send is no reason to stop
 * serving. */
void notify_systemd(const char *state);

#endif
