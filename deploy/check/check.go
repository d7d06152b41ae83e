// Package check holds no code. It is a module of its own, so that the daemon's
// go.mod need not hold what its tests need: the types of Kubernetes, kustomize and
// the compose specification; and nfpm, which `make deb` runs.
package check
