package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
)

// The names that sockets have in FileDescriptorName=.
const (
	hooksSocket = "hooks"
	adminSocket = "admin"
)

// passedSockets returns the listening sockets that systemd opened for us, by name.
// Connections wait in them while blessd is restarted. A socket that nobody would
// serve is an error: what connects to it would wait for ever.
func passedSockets() (map[string]net.Listener, error) {
	sockets := make(map[string]net.Listener)
	var errs []error
	for _, f := range activation.Files(true) {
		l, err := net.FileListener(f)
		name := f.Name()
		_ = f.Close() // the listener has its own
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("socket %q from systemd: %w", name, err))
			continue
		case !slices.Contains([]string{hooksSocket, adminSocket}, name):
			err = fmt.Errorf("socket %q from systemd is for nobody: its unit needs FileDescriptorName=%s or %s", name, hooksSocket, adminSocket)
		case sockets[name] != nil:
			err = fmt.Errorf("more than one socket %q from systemd: give its unit one ListenStream=", name)
		default:
			if _, ok := l.Addr().(*net.TCPAddr); ok {
				sockets[name] = l
				continue
			}
			err = fmt.Errorf("socket %q from systemd is no TCP socket: write ListenStream=127.0.0.1:8080, for instance", name)
		}
		errs = append(errs, err, l.Close())
	}
	if err := errors.Join(errs...); err != nil {
		for _, l := range sockets {
			err = errors.Join(err, l.Close())
		}
		return nil, err
	}
	return sockets, nil
}

// notify tells the service manager what blessd does, where there is one.
func (d *daemon) notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		d.log.Warn("service manager not notified", zap.String("state", state), zap.Error(err))
	}
}

// notifyReloading comes before a reload, which ends with sd.SdNotifyReady.
func (d *daemon) notifyReloading() {
	d.notify(sd.SdNotifyReloading + "\n" + sd.SdNotifyMonotonicUsec())
}

// startWatchdog tells the service manager for as long as blessd can do its work
// that it does, if that was asked for with WatchdogSec=.
func (d *daemon) startWatchdog(ctx context.Context) error {
	timeout, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("watchdog of the service manager: %w", err)
	}
	if timeout > 0 {
		go watchdog(ctx, timeout/3, d.broken, func() { d.notify(sd.SdNotifyWatchdog) })
	}
	return nil
}

// broken says why only a restart helps, or nil. Without a journal nothing of ours
// can break for good.
func (d *daemon) broken() error {
	if d.journal == nil {
		return nil
	}
	return d.journal.Err()
}

// watchdog calls alive at the beginning and after each interval, until ctx is done
// or broken says that a restart is needed.
func watchdog(ctx context.Context, interval time.Duration, broken func() error, alive func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for broken() == nil {
		alive()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
