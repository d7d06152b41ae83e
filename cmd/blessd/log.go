package main

import (
	"fmt"
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLogger writes to stderr: lines for people on a terminal, JSON otherwise.
// format is auto, console or json; level is a zap level.
func newLogger(level, format string) (*zap.Logger, error) {
	parsed, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("log level %q is none of debug, info, warn, error", level)
	}
	var c zap.Config
	switch logFormat(format) {
	case "console":
		c = zap.NewDevelopmentConfig()
		c.Development = false
		c.EncoderConfig.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		c.DisableCaller = true
		if colours(os.Stderr) {
			c.EncoderConfig.EncodeLevel = zapcore.CapitalColorLevelEncoder
		}
	case "json":
		c = zap.NewProductionConfig()
		c.EncoderConfig.TimeKey = "time"
		c.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
		c.DisableCaller = true
	default:
		return nil, fmt.Errorf("log format %q is none of auto, console, json", format)
	}
	c.Level = zap.NewAtomicLevelAt(parsed)
	c.DisableStacktrace = true
	c.Sampling = nil // the receiver limits what strangers can cause
	log, err := c.Build()
	if err != nil {
		return nil, fmt.Errorf("make the logger: %w", err)
	}
	return log, nil
}

// logFormat says what auto means here.
func logFormat(format string) string {
	switch {
	case format != "auto":
		return format
	case isTerminal(os.Stderr):
		return "console"
	}
	return "json"
}

// isTerminal tells whether f is a character device that is not /dev/null.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
