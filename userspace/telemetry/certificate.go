// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// certificateMetrics are of the certificates that endpoints show.
type certificateMetrics struct {
	mu     sync.Mutex
	expiry *prometheus.GaugeVec
	loads  *prometheus.CounterVec
}

func newCertificateMetrics(gauges func(name, help string, labels ...string) *prometheus.GaugeVec, counters func(name, help string, labels ...string) *prometheus.CounterVec) *certificateMetrics {
	m := &certificateMetrics{
		expiry: gauges("certificate_expiry_timestamp_seconds", "When a certificate that an endpoint shows ends, in Unix time.", "endpoint", "certificate", "serial"),
		loads:  counters("certificate_loads_total", "Readings of certificates, CAs, CRLs and ticket keys that had changed, by result (loaded, refused).", "result"),
	}
	m.loads.WithLabelValues("loaded")
	m.loads.WithLabelValues(resultRefused)
	return m
}

// CertificateExpiry is one certificate's series.
type CertificateExpiry struct {
	Endpoint, Certificate, Serial string
	NotAfter                      time.Time
}

// CertificatesExpire replaces what is known of all certificates.
func (m *Metrics) CertificatesExpire(all []CertificateExpiry) {
	m.certificates.mu.Lock()
	defer m.certificates.mu.Unlock()
	m.certificates.expiry.Reset()
	for _, c := range all {
		m.certificates.expiry.WithLabelValues(c.Endpoint, c.Certificate, c.Serial).Set(float64(c.NotAfter.Unix()))
	}
}

// CertificatesLoaded counts files that were read again; ok: and taken.
func (m *Metrics) CertificatesLoaded(ok bool) {
	result := "loaded"
	if !ok {
		result = resultRefused
	}
	m.certificates.loads.WithLabelValues(result).Inc()
}
