package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// askBlessing sends q to a webhook's URL and demands exactly the blessing. The error
// says what to look at; it does not show the URL's token.
func askBlessing(q *http.Request, blessing string) error {
	where := publicPart(q.URL.String())
	client := &http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(q)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		hint := "does blessd run, and does the proxy in front of it? from inside the network the public address may not be reachable: then add --no-check"
		if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			err, hint = certificate.Err, "providers want a certificate that everybody trusts"
		}
		return fmt.Errorf("%s cannot be reached: %w (%s)", where, err, hint)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 512))
	switch {
	case answer.StatusCode == http.StatusOK && err == nil && string(body) == blessing:
		return nil
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return fmt.Errorf("%s redirects (status %d), which providers do not follow: register the URL that it leads to, or have the proxy answer itself", where, answer.StatusCode)
	case answer.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s is not known there (404): does the running blessd have this endpoint and token, and does the proxy keep the path as it is?", where)
	case answer.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%s asks for a password (401), which the provider does not have: basic_auth_file is for URLs that are registered by hand", where)
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answers %d instead of the blessing: is it blessd that answers?", where, answer.StatusCode)
	case err != nil:
		return fmt.Errorf("%s broke off: %w", where, err)
	}
	said := strings.ToValidUTF8(string(body[:min(len(body), 60)]), "?")
	return fmt.Errorf("%s answers %s, and must answer %q, not a character more: is it blessd that answers, and does the proxy leave the body alone?", where, strconv.Quote(said), blessing)
}
