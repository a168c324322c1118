import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto'
import { open, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { syncFolder } from '../../../shared/files/atomic-write.ts'
import { readTextFile } from '../../../shared/files/text-file.ts'
import { fingerprintOf } from '../../../shared/trust/trust-list.ts'
import { StartError } from '../../start-errors.ts'

/** A root whose private half lies in a file. */
export interface RootFile {
  readonly path: string
  readonly fingerprint: string
  readonly jwk: ReturnType<typeof publicJwkOf>
  readonly privateKey: KeyObject
}

/**
 * Makes a root (EC P-256) in a PEM file that its owner alone may read. [RFC 5958]
 * @throws StartError where the file is there: it may be the only copy of a root
 */
export async function makeRootFile(path: string): Promise<RootFile> {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const file = await open(path, 'wx', 0o600).catch((cause: unknown) => {
    if (cause instanceof Error && 'code' in cause && cause.code === 'EEXIST')
      throw new StartError(`${path} exists, and is not written over: choose another file`)
    throw cause
  })
  try {
    await file.writeFile(privateKey.export({ type: 'pkcs8', format: 'pem' }))
    await file.sync()
  } catch (error) {
    // A part of a key is none, and would be in the way.
    await rm(path, { force: true })
    throw error
  } finally {
    await file.close()
  }
  await syncFolder(dirname(path))
  return rootOf(path, privateKey)
}

/** @throws StartError when there is another key in the file, or none */
export async function readRootFile(path: string): Promise<RootFile> {
  const pem = await readTextFile(path)
  let key: KeyObject
  try {
    key = createPrivateKey(pem)
  } catch {
    // What node:crypto says of it may quote it.
    throw new StartError(`${path} holds no private key in PEM: 'outport keys make-root' makes one`)
  }
  if (key.asymmetricKeyDetails?.namedCurve !== 'prime256v1')
    throw new StartError(
      `the key in ${path} is not on the curve P-256: 'outport keys make-root' makes one that is`,
    )
  return rootOf(path, key)
}

function rootOf(path: string, privateKey: KeyObject): RootFile {
  const jwk = publicJwkOf(privateKey)
  return { path, fingerprint: fingerprintOf(jwk), jwk, privateKey }
}

/** The public half alone. */
function publicJwkOf(privateKey: KeyObject) {
  const {
    kty = '',
    crv = '',
    x = '',
    y = '',
  } = createPublicKey(privateKey).export({
    format: 'jwk',
  })
  return { kty, crv, x, y }
}
