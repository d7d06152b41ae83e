package scenario

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

var huntTimingScenarios = []Scenario{
	{
		Name: "hunt-timing", Tier: 1,
		Proves: "How long a refusal takes does not tell how much of a password was right.",
		Run:    huntTiming,
	},
}

const (
	// timingGroup is how many requests are pipelined and timed as one.
	timingGroup = 16
	// timingGroups is how many groups of each kind are timed before a look at them, and
	// timingLooks how many looks there are: on a quiet machine one is enough.
	timingGroups, timingLooks = 1500, 4
	// timingLimit is how large Welch's t may be. By chance alone 4.5 is exceeded once in
	// 150,000 runs; what is sought is far above.
	timingLimit = 4.5
)

// huntTiming guesses a long password wrongly in two ways: wrong from the first byte on, and
// wrong in the last. It times groups of pipelined requests on one connection, the two
// kinds in random turns, and compares the quicker half of each, in which the rest of
// the machine has the least say, by Welch's t-test. The busier the machine, the more
// it needs to see something; and what it has seen has to be seen again, twice.
func huntTiming(e *Env) {
	password := strings.Repeat("EXAMPLEpassword.", 250) // what a secret's file may hold
	b := e.BlessdLater(Config{})
	file := b.SecretFile("timing")
	e.WriteFile(file, "blessd:"+password)
	b.AddEndpoint(fmt.Sprintf("{name: timed, provider: enkod, basic_auth_file: %s}", file))
	b.Start()

	request := func(guess string) string {
		return fmt.Sprintf("POST /hooks/timed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\nAuthorization: Basic %s\r\n\r\n{}",
			base64.StdEncoding.EncodeToString([]byte("blessd:"+guess)))
	}
	kinds := [2]string{
		strings.Repeat(request("!"+password[1:]), timingGroup),
		strings.Repeat(request(password[:len(password)-1]+"!"), timingGroup),
	}
	conn, err := net.Dial("tcp", b.where.Load().Hooks)
	if err != nil {
		e.Fatalf("%v", err)
	}
	defer func() { _ = conn.Close() }() // it was read to the end
	answers := bufio.NewReaderSize(conn, 64<<10)
	ask := func(kind int) time.Duration {
		began := time.Now()
		go func() { _, _ = io.WriteString(conn, kinds[kind]) }() // else both sides could wait for the other to read
		for range timingGroup {
			a, err := http.ReadResponse(answers, nil)
			if err != nil {
				e.Fatalf("%v", err)
			}
			_, _ = io.Copy(io.Discard, a.Body)
			_ = a.Body.Close()
			if a.StatusCode != http.StatusUnauthorized {
				e.Fatalf("a wrong password was answered %d", a.StatusCode)
			}
		}
		return time.Since(began)
	}
	for range 200 { // until it is warm
		ask(rand.IntN(2))
	}
	// measure times that many more groups of each kind and compares all that it has.
	measure := func(times *[2][]float64, more int) float64 {
		n := [2]int{len(times[0]) + more, len(times[1]) + more}
		for len(times[0]) < n[0] || len(times[1]) < n[1] {
			kind := rand.IntN(2)
			times[kind] = append(times[kind], float64(ask(kind).Nanoseconds()))
		}
		t, difference := welch(quicker(times[0]), quicker(times[1]))
		e.Logf("after %d groups t is %.1f, the difference %.0f ns for each request", len(times[0]), t, difference/timingGroup)
		return t
	}
	var first [2][]float64
	seen := []float64{0}
	for look := 0; look < timingLooks && math.Abs(seen[0]) < timingLimit; look++ {
		seen[0] = measure(&first, timingGroups)
	}
	for range 2 {
		if math.Abs(seen[len(seen)-1]) < timingLimit {
			return
		}
		seen = append(seen, measure(new([2][]float64), len(first[0])))
	}
	if math.Abs(seen[2]) < timingLimit {
		return
	}
	if sameSign(seen) {
		e.Errorf("time depends on the secret: Welch's t is %.1f, three times in a row, between passwords that are wrong at the beginning and at the end", seen)
	}
}

// quicker returns the quicker half.
func quicker(times []float64) []float64 {
	times = slices.Sorted(slices.Values(times))
	return times[:len(times)/2]
}

// welch returns Welch's t of two samples, and the difference of their means.
func welch(x, y []float64) (t, difference float64) {
	mean := func(v []float64) (m, variance float64) {
		for _, f := range v {
			m += f
		}
		m /= float64(len(v))
		for _, f := range v {
			variance += (f - m) * (f - m)
		}
		return m, variance / float64(len(v)-1)
	}
	mx, vx := mean(x)
	my, vy := mean(y)
	return (my - mx) / math.Sqrt(vx/float64(len(x))+vy/float64(len(y))), my - mx
}

func sameSign(v []float64) bool {
	return slices.Max(v) < 0 || slices.Min(v) > 0
}
