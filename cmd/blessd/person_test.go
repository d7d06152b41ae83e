package main

import "testing"

func TestPersonIn(t *testing.T) {
	for _, c := range []struct {
		address, text string
		want          bool
	}{
		{"user@example.com", `{"to":"user@example.com"}`, true},
		{"User@Example.com", `{"to":"uSER@EXAMPLE.com"}`, true},
		{"user@example.com", `{"to":"User <user@example.com>, other@example.com"}`, true},
		{"user@example.com", "mail to user@example.com.\r\nbounced", true},
		{"user@example.com", `{"to":"user\u0040example.com"}`, true},
		{"user@example.com", `{"to":"\u003cuser@example.com\u003e"}`, true},
		{"user@example.com", "recipient=user%40example.com&event=opened", true},
		{"user@example.com", "From=Some+Body+%3Cuser%40example.com%3E", true},
		{"user+tag@example.com", "recipient=user%2Btag%40example.com", true},
		{"user+tag@example.com", `{"to":"user+tag@example.com"}`, true},
		{"user@example.com", `{"raw_base64":"eyJ0byI6InVzZXJAZXhhbXBsZS5jb20iLCJ4Ijoi/yJ9"}`, true},
		{"user@example.com", `{"raw_base64":"eyJ0byI6"`, false},
		{"+61412345678", `{"mobile":"+61412345678"}`, true},
		{"user@example.com", `{"to":"other@example.com"}`, false},
		{"user@example.com", `{"to":"super-user@example.com"}`, false},
		{"user@example.com", `{"to":"user@example.community"}`, false},
		{"user@example.com", `{"to":"user@example.com.au"}`, false},
		{"user@example.com", `{"to":"a+user@example.com"}`, false},
		{"user@example.com", `{"to":"user@example.com.au","cc":"user@example.com"}`, true},
		{"user@example.com", "100%", false},
		{"user@example.com", "%4", false},
		{"user@example.com", "", false},
	} {
		p, err := parsePerson(c.address)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.in([]byte(c.text)); got != c.want {
			t.Errorf("%s in %s: %v, want %v", c.address, c.text, got, c.want)
		}
	}
}

func TestParsePerson(t *testing.T) {
	for _, s := range []string{"", "user", "@example.com", "user@", "a b@example.com", "12345", `"a"@example.com`, "a@b,c@d"} {
		if _, err := parsePerson(s); err == nil {
			t.Errorf("%q passes as an address", s)
		}
	}
}
