package check

import (
	"maps"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// objects are what a directory builds to, by kind and name.
type objects map[string]any

func build(t *testing.T, fs filesys.FileSystem, dir string) objects {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fs, dir)
	if err != nil {
		t.Fatalf("kustomize build %s: %v", dir, err)
	}
	all := objects{}
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		var o any
		switch r.GetKind() {
		case "StatefulSet":
			o = &apps.StatefulSet{}
		case "Deployment":
			o = &apps.Deployment{}
		case "Service":
			o = &core.Service{}
		case "ConfigMap":
			o = &core.ConfigMap{}
		case "NetworkPolicy":
			o = &networking.NetworkPolicy{}
		case "PodDisruptionBudget":
			o = &policy.PodDisruptionBudget{}
		case "PodMonitor":
			o = &monitoring.PodMonitor{}
		default:
			t.Fatalf("%s: the kind %s is not checked", dir, r.GetKind())
		}
		if err := yaml.UnmarshalStrict(text, o); err != nil {
			t.Errorf("%s: %s %s: %v", dir, r.GetKind(), r.GetName(), err)
		}
		name := r.GetName()
		if r.GetKind() == "ConfigMap" {
			name, _, _ = strings.Cut(name, "-") // the hash of its content
		}
		all[r.GetKind()+"/"+name] = o
	}
	return all
}

// get returns an object of a kind that was built.
func get[T any](t *testing.T, all objects, key string) T {
	t.Helper()
	o, ok := all[key].(T)
	if !ok {
		t.Fatalf("there is no %s among %q", key, slices.Sorted(maps.Keys(all)))
	}
	return o
}

func TestKubernetesBase(t *testing.T) {
	all := build(t, filesys.MakeFsOnDisk(), "../kubernetes/base")
	set := get[*apps.StatefulSet](t, all, "StatefulSet/blessd")
	if *set.Spec.Replicas != 1 {
		t.Errorf("%d replicas share nothing but a name", *set.Spec.Replicas)
	}
	checkPod(t, all, set.Spec.Template, set.Spec.Selector.MatchLabels, "data")
	if mounts := set.Spec.Template.Spec.Containers[0].VolumeMounts; !slices.ContainsFunc(mounts, func(m core.VolumeMount) bool {
		return m.Name == set.Spec.VolumeClaimTemplates[0].Name && m.MountPath == "/var/lib/blessd"
	}) {
		t.Error("the journal is not on the volume")
	}
	get[*core.Service](t, all, "Service/"+set.Spec.ServiceName)
	checkServices(t, all, set.Spec.Template)
	checkConfig(t, all, "acknowledge: stream", false)
}

func TestKubernetesStream(t *testing.T) {
	all := build(t, filesys.MakeFsOnDisk(), "../kubernetes/overlays/stream")
	for _, gone := range []string{"StatefulSet/blessd", "Service/blessd-nats"} {
		if all[gone] != nil {
			t.Errorf("%s is still there", gone)
		}
	}
	d := get[*apps.Deployment](t, all, "Deployment/blessd")
	checkPod(t, all, d.Spec.Template, d.Spec.Selector.MatchLabels)
	checkServices(t, all, d.Spec.Template)
	checkConfig(t, all, "acknowledge: stream", true)
	budget := get[*policy.PodDisruptionBudget](t, all, "PodDisruptionBudget/blessd")
	if !maps.Equal(budget.Spec.Selector.MatchLabels, d.Spec.Selector.MatchLabels) {
		t.Errorf("the budget is for %v", budget.Spec.Selector.MatchLabels)
	}
}

// TestKubernetesMonitoring adds the component to the base, as its users do.
func TestKubernetesMonitoring(t *testing.T) {
	fs := filesys.MakeFsInMemory()
	for _, dir := range []string{"base", "monitoring"} {
		disk := filesys.MakeFsOnDisk()
		files, err := disk.ReadDir("../kubernetes/" + dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := fs.WriteFile("/"+dir+"/"+f, []byte(read(t, "../kubernetes/"+dir+"/"+f))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := fs.WriteFile("/mine/kustomization.yaml", []byte("resources: [../base]\ncomponents: [../monitoring]\n")); err != nil {
		t.Fatal(err)
	}
	all := build(t, fs, "/mine")
	m := get[*monitoring.PodMonitor](t, all, "PodMonitor/blessd")
	labels := get[*apps.StatefulSet](t, all, "StatefulSet/blessd").Spec.Template.Labels
	for k, v := range m.Spec.Selector.MatchLabels {
		if labels[k] != v {
			t.Errorf("it looks for %s=%s, and the pods have %v", k, v, labels)
		}
	}
	if labels[m.Spec.JobLabel] != "blessd" {
		t.Errorf("the label job will be %q", labels[m.Spec.JobLabel])
	}
	if p := m.Spec.PodMetricsEndpoints[0].Port; p == nil || *p != "admin" {
		t.Errorf("it asks the port %v", p)
	}
}

// checkPod holds a pod to the profile `restricted` of Kubernetes' pod security
// standards, and to itself. Claims are volumes from elsewhere.
func checkPod(t *testing.T, all objects, template core.PodTemplateSpec, selector map[string]string, claims ...string) {
	t.Helper()
	if len(selector) == 0 {
		t.Error("the selector is empty")
	}
	for k, v := range selector {
		if template.Labels[k] != v {
			t.Errorf("the selector %s=%s does not match the pods' %v", k, v, template.Labels)
		}
	}
	spec := template.Spec
	if s := spec.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 || s.FSGroup == nil ||
		s.SeccompProfile == nil || s.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault || spec.HostNetwork || spec.HostPID {
		t.Errorf("the pod's security context is not that of restricted: %+v", s)
	}
	if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		t.Error("the pod gets a token of the cluster")
	}
	c := spec.Containers[0]
	if s := c.SecurityContext; s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil ||
		!*s.ReadOnlyRootFilesystem || s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
		t.Errorf("the container's security context is not that of restricted: %+v", s)
	}
	ports := map[string]int32{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	for path, probe := range map[string]*core.Probe{"/-/healthy": c.LivenessProbe, "/-/ready": c.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != path || ports[probe.HTTPGet.Port.StrVal] != 8081 {
			t.Errorf("the probe is not %s on the admin listener: %+v", path, probe)
		}
	}
	// What comes before the stop counts.
	if g := spec.TerminationGracePeriodSeconds; g == nil || *g < 20+c.Lifecycle.PreStop.Sleep.Seconds {
		t.Errorf("%d s are too few for a stop", g)
	}
	for _, v := range spec.Volumes {
		claims = append(claims, v.Name)
		if v.ConfigMap != nil {
			name, _, _ := strings.Cut(v.ConfigMap.Name, "-")
			if m := get[*core.ConfigMap](t, all, "ConfigMap/"+name); m.Name != v.ConfigMap.Name {
				t.Errorf("the pod wants the configuration %s, and there is %s", v.ConfigMap.Name, m.Name)
			}
		}
		if v.Secret != nil && (v.Secret.SecretName != "blessd-keys" || *v.Secret.DefaultMode&0o007 != 0) {
			t.Errorf("the keys are %+v", v.Secret)
		}
	}
	for _, m := range c.VolumeMounts {
		if !slices.Contains(claims, m.Name) {
			t.Errorf("nothing is the volume %s", m.Name)
		}
	}
	if !strings.HasPrefix(c.Image, "ghcr.io/blessd/blessd:") {
		t.Errorf("the image is %s", c.Image)
	}
}

// checkServices looks whether services and the network policy mean the pods and
// ports that there are.
func checkServices(t *testing.T, all objects, template core.PodTemplateSpec) {
	t.Helper()
	var ports []string
	for _, p := range template.Spec.Containers[0].Ports {
		ports = append(ports, p.Name)
	}
	means := func(what string, selector map[string]string) {
		if len(selector) == 0 {
			t.Errorf("%s means every pod", what)
		}
		for k, v := range selector {
			if template.Labels[k] != v {
				t.Errorf("%s means %s=%s, and the pods have %v", what, k, v, template.Labels)
			}
		}
	}
	get[*core.Service](t, all, "Service/blessd")
	for key, o := range all {
		s, ok := o.(*core.Service)
		if !ok {
			continue
		}
		means(key, s.Spec.Selector)
		for _, p := range s.Spec.Ports {
			if !slices.Contains(ports, p.TargetPort.StrVal) {
				t.Errorf("%s leads to the port %s, of %q", key, p.TargetPort.StrVal, ports)
			}
		}
	}
	n := get[*networking.NetworkPolicy](t, all, "NetworkPolicy/blessd")
	means("the network policy", n.Spec.PodSelector.MatchLabels)
	var open []string
	for _, rule := range n.Spec.Ingress {
		for _, p := range rule.Ports {
			open = append(open, p.Port.StrVal)
		}
		if len(rule.From) == 0 {
			t.Error("the network policy lets everybody in")
		}
	}
	slices.Sort(open)
	slices.Sort(ports)
	if !slices.Equal(open, ports) {
		t.Errorf("the network policy is about the ports %q, and there are %q", open, ports)
	}
	if len(n.Spec.PolicyTypes) != 2 {
		t.Errorf("the network policy is about %v", n.Spec.PolicyTypes)
	}
}

func checkConfig(t *testing.T, all objects, has string, want bool) {
	t.Helper()
	text := get[*core.ConfigMap](t, all, "ConfigMap/blessd").Data["blessd.yaml"]
	if strings.Contains(text, "\n"+has+"\n") != want {
		t.Errorf("%q in the configuration: not %t\n%s", has, want, text)
	}
	configured(t, text)
}
