package scripted

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
)

// listenLoopback serves on a loopback address such as "127.0.0.1:0", and returns its URL without a final slash.
func listenLoopback(address string, handler http.Handler) (*http.Server, string, error) {
	bind, err := netip.ParseAddrPort(address)
	if err != nil || !bind.Addr().IsLoopback() {
		return nil, "", fmt.Errorf("listen on %q: expected a loopback address and a port, such as 127.0.0.1:0", address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, "", fmt.Errorf("listen on %s: %w", address, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: targetHeaderTimeout}
	go func() { _ = server.Serve(listener) }()
	return server, "http://" + listener.Addr().String(), nil
}

// shutDown ends servers, each with what it is answering.
func shutDown(servers []*http.Server) (failures []error) {
	ctx, cancel := context.WithTimeout(context.Background(), targetShutdownTimeout)
	defer cancel()
	for _, server := range servers {
		failures = append(failures, server.Shutdown(ctx))
	}
	return failures
}
