package check

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

func compose(t *testing.T, env []string, profiles ...string) *types.Project {
	t.Helper()
	o, err := cli.NewProjectOptions([]string{"../compose/compose.yaml"}, cli.WithProfiles(profiles), cli.WithEnv(env))
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(t.Context()) // against the schema of the specification
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCompose(t *testing.T) {
	for profile, want := range map[string][]string{
		"":        {"blessd", "grafana", "prometheus"},
		"cluster": {"blessd", "grafana", "n1", "n2", "n3", "prometheus"},
	} {
		var env []string
		if profile == "cluster" {
			env = []string{"BLESSD_CONFIG=/etc/blessd/cluster.yaml", "BLESSD_NATS_LISTEN="} // as the file says
		}
		p := compose(t, env, profile)
		got := p.ServiceNames()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("profile %q: services %q, want %q", profile, got, want)
		}
		stores := map[string]string{}
		for _, s := range p.Services {
			for _, port := range s.Ports {
				if port.HostIP != "127.0.0.1" {
					t.Errorf("%s: port %s is open to everybody", s.Name, port.Published)
				}
			}
			for _, v := range s.Volumes {
				switch v.Type {
				case types.VolumeTypeBind:
					if _, err := os.Stat(v.Source); err != nil {
						t.Errorf("%s mounts %v", s.Name, err)
					}
					if !v.ReadOnly {
						t.Errorf("%s may write to %s", s.Name, v.Source)
					}
				case types.VolumeTypeVolume:
					if other := stores[v.Source]; other != "" {
						t.Errorf("%s and %s share the volume %s", s.Name, other, v.Source)
					}
					stores[v.Source] = s.Name
				}
			}
		}
		// What blessd gets in its environment goes with its configuration.
		env = []string{"BLESSD_LISTEN=0.0.0.0:8080", "BLESSD_ADMIN_LISTEN=0.0.0.0:8081"} // of the image
		config := p.Services["blessd"].Environment["BLESSD_CONFIG"]
		for name, value := range p.Services["blessd"].Environment {
			if name != "BLESSD_CONFIG" {
				env = append(env, name+"="+*value)
			}
		}
		switch {
		case profile == "cluster" && *config == "/etc/blessd/cluster.yaml":
			configured(t, read(t, "../compose/config/cluster.yaml"), env...)
		case profile == "" && *config == "":
			configured(t, "endpoints: [{name: mailgun, provider: mailgun}]\n", env...)
		default:
			t.Errorf("profile %q: the configuration is %q", profile, *config)
		}
	}
}

// TestComposePrometheus has Prometheus' own tool read its configuration.
func TestComposePrometheus(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("SKIPPED: there is no promtool here (apt-get install prometheus)")
	}
	rules, err := filepath.Abs("../prometheus")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	text := strings.ReplaceAll(read(t, "../compose/prometheus.yml"), "/etc/prometheus/rules", rules)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "config", file).CombinedOutput(); err != nil {
		t.Errorf("promtool check config: %v\n%s", err, out)
	}
}
