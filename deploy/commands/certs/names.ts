import {
  parseHostName,
  parseIpAddress,
  type CertificateNames,
} from '../../../shared/trust/names.ts'
import { UsageError } from '../../command-line.ts'

/** The options that say what a certificate is for. */
export const nameOptions = {
  host: {
    type: 'string',
    multiple: true,
    value: 'NAME',
    help: 'a host name that clients type, `*.` at its start allowed',
  },
  ip: { type: 'string', multiple: true, value: 'ADDRESS', help: 'an IP address that clients type' },
} as const

/**
 * The names of `--host` and `--ip`.
 * @throws UsageError when there is none, or one is wrong
 */
export function parseNames(options: {
  readonly host: readonly string[]
  readonly ip: readonly string[]
}): CertificateNames {
  if (options.host.length + options.ip.length === 0) {
    throw new UsageError('a certificate needs a name: give --host NAME or --ip ADDRESS')
  }
  return {
    dnsNames: [...new Set(parseEach('host', options.host, parseHostName))],
    ipAddresses: [...new Set(parseEach('ip', options.ip, parseIpAddress))],
  }
}

function parseEach(
  option: string,
  texts: readonly string[],
  parse: (text: string) => string,
): string[] {
  return texts.map((text) => {
    try {
      return parse(text)
    } catch (cause) {
      throw new UsageError(`--${option}: ${cause instanceof Error ? cause.message : String(cause)}`)
    }
  })
}

/**
 * A word that becomes part of a file's name.
 * @throws UsageError when it could lead elsewhere
 */
export function parseFileName(option: string, text: string): string {
  if (!/^\w[\w.-]{0,63}$/.test(text)) {
    throw new UsageError(`--${option} must be of letters, digits, dots, dashes, not '${text}'`)
  }
  return text
}

interface Registry {
  /** As clients write it, and name its folder. */
  readonly authority: string
}

/**
 * A registry as clients name it: `host:port`, the port left out for 443.
 * @param option where it was given, for the messages
 * @throws UsageError when it is something else
 */
export function parseRegistry(text: string, option = 'registry'): Registry {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/.exec(text)
  const [, ip6, name, port] = match ?? []
  if (match === null || (port !== undefined && !(Number(port) >= 1 && Number(port) <= 65535))) {
    throw new UsageError(`--${option} must be HOST:PORT, not '${text}'`)
  }
  const suffix = port === undefined ? '' : `:${Number(port)}`
  if (ip6 !== undefined) {
    const [address] = parseEach(option, [ip6], parseIpAddress)
    return { authority: `[${address}]${suffix}` }
  }
  const [host] = parseEach(option, [name ?? ''], parseHost)
  return { authority: `${host}${suffix}` }
}

function parseHost(text: string): string {
  if (/^[\d.]+$/.test(text)) return parseIpAddress(text)
  if (text.startsWith('*')) throw new RangeError(`'${text}' is not one host`)
  return parseHostName(text)
}
