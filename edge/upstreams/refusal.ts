import { OciError } from '../../shared/oci/errors.ts'
import type { OciPath } from '../../shared/oci/paths.ts'
import type { SourceError } from '../../shared/stream/blob-source.ts'

/** Seconds after which a client may try again when the upstream named no time. */
const retryAfterSeconds = 5

/**
 * What a client hears when the upstream did not give what was asked. A far side that refuses the edge's
 * credential and one that has nothing look the same from outside. Nothing but 404 and 503 is answered:
 * containerd retries a 429 in place without a pause, and goes to its next host on these.
 */
export function refusalOf(error: SourceError, kind: OciPath['kind']): OciError {
  switch (error.code) {
    case 'absent':
    case 'refused':
      return absent(kind, error)
    case 'busy':
    case 'unavailable':
    case 'broken': {
      const seconds = Math.ceil((error.retryAfterMs ?? retryAfterSeconds * 1000) / 1000)
      return new OciError('UNAVAILABLE', `the upstream did not give this: ${error.message}`, {
        headers: { 'Retry-After': String(seconds) },
        cause: error,
      })
    }
  }
}

function absent(kind: OciPath['kind'], cause: SourceError): OciError {
  switch (kind) {
    case 'blob':
      return new OciError('BLOB_UNKNOWN', 'there is no such blob in this repository', { cause })
    case 'manifest':
      return new OciError('MANIFEST_UNKNOWN', 'there is no such manifest in this repository', {
        cause,
      })
    default:
      return new OciError('NAME_UNKNOWN', 'there is no such repository', { cause })
  }
}
