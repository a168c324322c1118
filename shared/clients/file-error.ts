/** A client's file holds what cannot be read, or what ours cannot be put beside; the message says in one line where and why. */
export class ClientFileError extends Error {
  override readonly name = 'ClientFileError'
}
