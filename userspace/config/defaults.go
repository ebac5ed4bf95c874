// SPDX-License-Identifier: Apache-2.0

package config

import "time"

// prototypes are what a file's values are decoded over: a key that is not
// there keeps what stands here.
type prototypes struct {
	config   Config
	endpoint Endpoint // each element of Config.Endpoints
	target   Target   // each element of Upstream.Targets
	// What is there only if the file has it.
	termination Termination
	mutualTLS   MutualTLS
	upstreamTLS UpstreamTLS
}

// Defaults that commands have, too, which do not read the file.
const (
	DefaultBPFFS       = "/sys/fs/bpf/spliceway"
	DefaultSourcePorts = "40000-59999"
)

// defaults holds every default but those that depend on other keys, which
// derive fills in.
func defaults() prototypes {
	return prototypes{
		config: Config{
			Engine: "auto", Sockmap: "auto", BPFFS: DefaultBPFFS, SourcePorts: DefaultSourcePorts,
			Kubernetes: Kubernetes{MaxReferences: 1024},
			Refuse: Refuse{
				UnknownName:  "close",
				NoSNI:        "close",
				Malformed:    "close",
				NotTLS:       "close",
				HelloTimeout: "close",
				TooLarge:     "close",
				OverLimit:    "close",
				DialFailed:   "close",
				Denied:       "close",
				PolicyFailed: "close",
			},
			Timeouts: Timeouts{
				Hello:     3 * time.Second,
				Handshake: 10 * time.Second,
				Connect:   5 * time.Second,
				Idle:      time.Hour,
				HalfClose: 5 * time.Minute,
				Drain:     30 * time.Second,
			},
			Limits: Limits{
				HelloBytes:  maxHelloBytes,
				HelloMemory: 64 << 20, SockmapQueue: 1 << 20,
				OpenFiles: 1 << 20,
			},
			ACME: ACME{
				DirectoryURL: "https://acme-v02.api.letsencrypt.org/directory",
				Cache:        "/var/lib/spliceway/acme",
			},
			SessionTickets: SessionTickets{Rotation: 12 * time.Hour},
			Log:            Log{Format: "json", Level: "info", Access: true},
			Admin:          Admin{Address: "127.0.0.1:9180"},
		},
		endpoint: Endpoint{
			Upstream: Upstream{
				LoadBalancing: "roundRobin",
				Retries:       2,
				HealthCheck: HealthCheck{
					Interval:           5 * time.Second,
					Timeout:            2 * time.Second,
					HealthyThreshold:   2,
					UnhealthyThreshold: 3,
				},
				Ejection: Ejection{Failures: 3, Duration: 10 * time.Second},
				DNS:      DNS{Refresh: 30 * time.Second, Family: "any"},
			},
		},
		target:      Target{Weight: 1},
		termination: Termination{MinVersion: "1.2", MaxVersion: "1.3", SessionTickets: true},
		mutualTLS:   MutualTLS{Mode: "require-and-verify"},
		upstreamTLS: UpstreamTLS{MinVersion: "1.2"},
	}
}

// derive fills in the defaults that depend on other keys.
func derive(cfg *Config) {
	if cfg.Limits.AcceptBurst == 0 {
		cfg.Limits.AcceptBurst = cfg.Limits.AcceptRate
	}
	for i := range cfg.Endpoints {
		cfg.Endpoints[i].Finish()
	}
}
