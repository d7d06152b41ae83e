package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// portAdvice adds to the error of a listener what to do about it. The embedded NATS
// server gives its reason as a text only.
func portAdvice(err error, flag, setting string) error {
	if err == nil {
		return nil
	}
	other := fmt.Sprintf("choose another with --%s or `%s:`; port 0 takes a free one", flag, setting)
	is := func(n syscall.Errno) bool { return strings.Contains(err.Error(), n.Error()) }
	switch {
	case is(syscall.EADDRINUSE):
		return fmt.Errorf("%w: another program has it: %s", err, other)
	case is(syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: this machine does not have that address: %s", err, other)
	case is(syscall.EACCES):
		return fmt.Errorf("%w: this user may not listen there: %s", err, other)
	}
	return err
}

// dataDirAdvice adds to an error about the data directory what to do about it.
func dataDirAdvice(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: let the user that runs blessd write there, or choose another with --data-dir or `data_dir:`", err)
}

// self is what to type to run this program again.
func self() string { return shellWord(os.Args[0]) }

// shellWord returns s as a shell takes it, quoted only where it must be.
func shellWord(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-+=:@,%", r)
	}) {
		return quote(s)
	}
	return s
}
