import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from 'node:crypto'

/** What lies encrypted under the key file. */
export interface Secrets {
  /** Names the key without telling it. */
  readonly fingerprint: string
  /** @param label what the secret is for: it opens under no other */
  seal(plain: Buffer, label: string): Buffer
  /** @throws Error when it was sealed under another key or label, or was changed */
  open(sealed: Buffer, label: string): Buffer
}

export const secretKeyBytes = 32
const nonceBytes = 12
const tagBytes = 16
const version = 1

/**
 * AES-256-GCM under one key: `version, nonce, tag, ciphertext`. [NIST SP 800-38D]
 * @throws Error unless the key has 32 bytes
 */
export function createSecrets(key: Buffer): Secrets {
  if (key.length !== secretKeyBytes) throw new Error(`a secret key has ${secretKeyBytes} bytes`)
  const cipherKey = Buffer.from(hkdfSync('sha256', key, '', 'outport secrets', secretKeyBytes))
  return {
    fingerprint: createHash('sha256')
      .update('outport key fingerprint')
      .update(key)
      .digest('hex')
      .slice(0, 32),
    seal(plain, label) {
      const nonce = randomBytes(nonceBytes)
      const cipher = createCipheriv('aes-256-gcm', cipherKey, nonce).setAAD(Buffer.from(label))
      const text = Buffer.concat([cipher.update(plain), cipher.final()])
      return Buffer.concat([Buffer.of(version), nonce, cipher.getAuthTag(), text])
    },
    open(sealed, label) {
      if (sealed[0] !== version || sealed.length < 1 + nonceBytes + tagBytes) {
        throw new Error('this is not a sealed secret of a known version')
      }
      const nonce = sealed.subarray(1, 1 + nonceBytes)
      const tag = sealed.subarray(1 + nonceBytes, 1 + nonceBytes + tagBytes)
      const decipher = createDecipheriv('aes-256-gcm', cipherKey, nonce, {
        authTagLength: tagBytes,
      })
      decipher.setAAD(Buffer.from(label)).setAuthTag(tag)
      return Buffer.concat([
        decipher.update(sealed.subarray(1 + nonceBytes + tagBytes)),
        decipher.final(),
      ])
    },
  }
}
