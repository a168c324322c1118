import { X509Certificate } from 'node:crypto'
import { fingerprintOf, type TrustedKey, type TrustList } from '../../shared/trust/trust-list.ts'

/** What a list says that the one before did not, and what it says no more: a line each, for people. */
export function describeChanges(before: TrustList | undefined, list: TrustList): readonly string[] {
  const changes: string[] = []
  const { root, epoch, log, ca } = list
  if (root.id !== before?.root.id) changes.push(`the root is ${nameOf(root)} from now on`)
  if (epoch !== before?.epoch) changes.push(`the log goes on in epoch ${epoch}`)
  const [oldKeys, newKeys] = [before?.log ?? [], log].map((keys) => keys.map(nameOf))
  changes.push(...compare('log key', oldKeys ?? [], newKeys ?? []))
  const [oldCas, newCas] = [before?.ca ?? [], ca].map((all) => all.map(fingerprintOfCa))
  changes.push(...compare('edge CA', oldCas ?? [], newCas ?? []))
  const [issuing] = newCas ?? []
  if (issuing !== undefined && issuing !== oldCas?.[0])
    changes.push(`the edge CA that issues is ${issuing}`)
  return changes
}

function compare(
  what: string,
  before: readonly string[],
  now: readonly string[],
): readonly string[] {
  return [
    ...now.filter((each) => !before.includes(each)).map((each) => `${what} ${each} counts`),
    ...before.filter((each) => !now.includes(each)).map((each) => `${what} ${each} counts no more`),
  ]
}

function nameOf({ id, jwk }: TrustedKey): string {
  return `${id} (${fingerprintOf(jwk)})`
}

function fingerprintOfCa(pem: string): string {
  return new X509Certificate(pem).fingerprint256.replaceAll(':', '').toLowerCase()
}
