import { isIP } from 'node:net'

/** What a certificate is valid for: host names as clients type them, and addresses. */
export interface CertificateNames {
  readonly dnsNames: readonly string[]
  readonly ipAddresses: readonly string[]
}

const label = /^(?!-)[a-z0-9_-]{1,63}(?<!-)$/

/**
 * A host name in lower case: letters, digits, hyphens (and `_`, which container networks use and Go's TLS
 * accepts) in labels of at most 63 characters, 253 in all, and `*.` at most at the start. International
 * names are given in their ASCII form. [RFC 1123 §2.1, RFC 6125 §6.4.3]
 * @throws RangeError that says what is wrong with it
 */
export function parseHostName(text: string): string {
  const name = text.toLowerCase()
  const labels = name.replace(/^\*\./, '').split('.')
  if (isIP(name) !== 0) throw new RangeError(`'${text}' is an address: give it as --ip`)
  if (/[^ -~]/.test(name)) {
    throw new RangeError(`'${text}' is not in ASCII: write the name's xn-- form`)
  }
  if (name.length > 253 || !labels.every((each) => label.test(each)) || isNumber(labels.at(-1))) {
    throw new RangeError(`'${text}' is not a host name`)
  }
  return name
}

// A last label of digits alone would be read as an address by some clients. [WHATWG URL, ends in a number]
function isNumber(text: string | undefined): boolean {
  return text !== undefined && /^(?:\d+|0x[0-9a-f]*)$/.test(text)
}

/**
 * An IPv4 or IPv6 address in its one canonical spelling.
 * @throws RangeError when it is not an address
 */
export function parseIpAddress(text: string): string {
  const version = isIP(text)
  if (version === 0 || text.includes('%')) {
    throw new RangeError(`'${text}' is not an IPv4 or IPv6 address`)
  }
  if (version === 4) return text
  return new URL(`http://[${text}]`).hostname.slice(1, -1)
}
